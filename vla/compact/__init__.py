"""A compact vision-language-action model that trains and runs on one CPU core."""
