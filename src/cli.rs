//! The command line. Doc comments here are the help, the man pages and the completions.
