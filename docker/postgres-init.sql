-- Runs once, when the volume is new: Prefect's own database is POSTGRES_DB, the ledger of paid answers has another.
CREATE DATABASE ledger;
