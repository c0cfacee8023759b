"""The blind review of a run: a page of pairs, the key that says who is who, and what judgments come to."""
