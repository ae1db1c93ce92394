"""scratchlm's models and indexes as other libraries' classes; each library has a folder of its own."""
