"""`finalbell rehearse`: virtual students sit a shadow of an exam before the real ones do, and an audit says what became of it."""
