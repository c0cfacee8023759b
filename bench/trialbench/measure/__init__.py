"""Measuring: samples and their validity, segments of samples, sessions of segments."""
