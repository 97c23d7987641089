"""Editors: what changes a person's emotion in a picture. One frozen dataclass a method, one contract."""
