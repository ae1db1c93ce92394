"""The studio: pages for a browser, in front of the same models as the API."""
