"""What partner exams say of forecasts: pairs, scores, live evidence, and what a site may learn from them."""
