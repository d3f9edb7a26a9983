"""Report: what a person looks at to judge a model; the model itself is asked for heat maps and features."""
