"""Measuring: samples and what makes one valid, segments of samples, sessions of segments."""
