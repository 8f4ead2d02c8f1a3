"""Listening tests after ITU-R BS.1534 (MUSHRA): pages for webMUSHRA, and the statistics of what it collects."""
