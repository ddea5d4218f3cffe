"""The control plane of tenants, features, caps and keys: every change is one transaction with its audit entry."""
