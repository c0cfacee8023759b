"""A model as it was published: roster, weights, layouts, and their conversion."""
