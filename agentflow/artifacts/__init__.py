"""Artifacts: what a stage leaves behind, found again by what it is and verified before it is used.

`fingerprint`  what an artifact is (stage, version, config, inputs) and what changed between two of them
`manifest`     the folder's own account of itself, written last
`tables`       rows to Arrow and back, digests, rows that cannot be stored
`files`        durable writing: fsync, put-if-absent, checksums, locks
`artifact`     a committed folder: verified reading
`batches`      parts of a stage that is not finished yet
`store`        find, commit, lock, list, set aside
`diff`         two artifacts side by side; `explain` follows one row through all stages
"""
