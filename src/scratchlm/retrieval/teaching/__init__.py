"""Teaching a decoder to tell whether a passage answers a question, by texts that come with the library."""
