//! The data types of the wire: integers, variable byte integers, strings, binary data.
