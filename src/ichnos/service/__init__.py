"""The node next to the archive: receive exams, read them, send results, show a worklist.

Five loops share one database (`store`): the receiver accepts exams, the assembler decides when a study is
complete, the worker reads it, the sender delivers results, the web server shows them. Each can run as a
process of its own; `ichnos serve` starts all of them.
"""
