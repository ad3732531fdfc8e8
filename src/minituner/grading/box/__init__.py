"""The only code that ever shares a process with a submission; it holds no secret and no oracle."""
