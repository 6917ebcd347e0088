//! Random schemas with planted keys.
