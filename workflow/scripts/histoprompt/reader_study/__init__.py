"""The visual Turing test: a page that readers answer, and what their answers say."""
