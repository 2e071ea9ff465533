"""A simulated hospital, in which the hidden truth is known, to try the audit of `ichnos.audit` on."""
