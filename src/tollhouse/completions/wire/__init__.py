"""The APIs that existing clients speak, each translated to and from the neutral conversation."""
