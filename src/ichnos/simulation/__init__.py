"""Virtual patients: every exam and the truth, grown from anatomy, with the best possible answer known; for research only.

The rooms inside, in the order data flows: `presets` (who is made), `law` (what is drawn), `mni_head` and `label_heads` (source heads),
`simulate.simulate_patient` (one patient), `ct`, `mri` and `diffusion` (exams), `targets` (truth on an exam's grid),
`cohort.simulate_cohort` (a folder of them), `training.batches` (crops made on the fly), `check_page.write_sheet` (how real they look).
"""
