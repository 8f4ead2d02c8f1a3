"""Evaluation folders with made-up scores, for tests of what reads them."""

import json

from spresso_jax.evaluate.decoded import FORMAT
from spresso_jax.evaluate.score import MEASURES, EmbeddingSource, Score

STAGES = {
    False: ["audio_ae", "clap", "text_to_audio", "diffusion_ae", "quantizer"],
    True: ["audio_ae", "clap", "text_to_audio", "diffusion_ae", "quantizer", "decoder_finetune"],
}


def system(key, kind, model="", kbps=None, frame_rate=None, codebooks=None, **more):
    facts = dict(key=key, label=f"label of {key}", kind=kind, fingerprint=f"made {key}", model=model)
    return facts | dict(kbps=kbps, frame_rate=frame_rate, codebooks=codebooks, clipped=0) | more


def continuous(t, **more):
    return system(f"ours{t}.continuous", "continuous", f"ours{t}", frame_rate=100 / t, **more)


def discrete(t, codebooks, bits, model=None):
    nominal = {9: 11.0}.get(t, 100 / t)
    model = model or f"ours{t}"
    kbps = codebooks * bits * nominal / 1000
    return system(f"{model}.m{codebooks}", "discrete", model, kbps, 100 / t, codebooks)


def model(t, bits, finetuned=True):
    point = dict(downsample=t, codebook_bits=bits)
    return dict(operating_point=point, provenance=[dict(stage=stage) for stage in STAGES[finetuned]], latents="aa")


def source_of(name):
    return EmbeddingSource(name, fingerprint=f"weights of {name}", published=name in ("vggish", "clap"))


def score(name, value, **more):
    """A record of "FAD[yamnet]" or "SI-SDR" with an interval of a tenth around it."""
    metric, _, embedding = name.partition("[")
    embedding = source_of(embedding.rstrip("]")) if MEASURES[metric].embedded else None
    facts = dict(low=value - 0.1 * abs(value), high=value + 0.1 * abs(value), counts={"clips": 6}) | more
    return Score(metric, value, embedding=embedding, **facts)


def write_evaluation(out, entries, models=None, set_name="union", clips=6, fingerprint="f" * 16, **changes):
    """Writes OUT/scores.json: `entries` are (system, {"FAD[yamnet]": value or Score, ...})."""
    records = []
    for facts, values in entries:
        for name, value in values.items():
            made = value if isinstance(value, Score) else score(name, value)
            records.append({"system": facts["key"], "set": set_name, **made.to_json()})
    content = dict(
        format=FORMAT,
        options=dict(steps=64, sampler="heun", number_of_clips=clips),
        clips=[dict(name=f"clip{i}", seconds=5.0, caption="") for i in range(clips)],
        clips_fingerprint=fingerprint,
        systems=[facts for facts, _ in entries],
        models=models or {},
        records=records,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").write_text(json.dumps(content | changes))
    return out
