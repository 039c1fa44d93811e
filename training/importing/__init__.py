"""Predictions of models that were not trained here: what files of them say, brought into prediction shards."""
