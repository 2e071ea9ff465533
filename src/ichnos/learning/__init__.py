"""Learning: from paired exams to a Model."""
