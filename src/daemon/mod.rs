//! The service: lifecycle and the driver loop.
