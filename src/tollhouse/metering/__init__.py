"""Reading usage from the rollups that the ledger keeps."""
