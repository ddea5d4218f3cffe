"""Instances that share a database: who lives, who was lost, and what each of them may still do."""
