"""Tenants: their AI module (off until activated), its expiry, their tier, and their feature switches."""
