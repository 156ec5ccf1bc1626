//! Frames: the fixed header, and how long a packet is, before anything is allocated for it.
