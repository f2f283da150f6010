//! What conductors and schedulers read and write.
