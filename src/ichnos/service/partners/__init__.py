"""Partner exams in the node: pairs are found, judged by `ichnos.audit`, and what came of it is kept."""
