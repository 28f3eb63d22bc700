"""The use cases and rules of auth, and where to look for them.

users              accounts, password_change, password_reset, email_verification
their sessions     sessions (sign in, refresh), own_sessions (list, end), live_sessions (does it live?)
passwords, codes   passwords (hashing), password_rules, email_codes, throttle (guessing)
mail               mailings (what is sent when), mails (what it says), password_notices
ending access      revocations; everything that ends a session goes through its Revoker
signing            signing (tokens), signing_keys (the life of keys), key_ring (the keys in a process), secret
services           service_accounts, refusals (what services tell of whom they refused)
administrators     administration (users), admins (who is one: from the command line), admin_access, actor
what was done      audit (taking down), audit_log (reading)
the worker         chores, mailings, purge
"""
