"""What engines share between a request and raw text: chat templates, constraints on an answer's form."""
