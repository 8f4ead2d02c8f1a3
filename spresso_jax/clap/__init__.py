"""CLAP: audio and text towers in one space, their front ends, tokenizer and contrastive loss."""
