"""support_desk: customers with a problem, who answer back."""
