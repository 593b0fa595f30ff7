"""LVIS's federated AP, and AP* on cocofied files."""
