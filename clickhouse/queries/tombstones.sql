-- Who was erased, by hash.
SELECT DISTINCT salt, user_hash, fingerprint
FROM erased_users
