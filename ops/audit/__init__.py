"""The auditor: reads what clients recorded and what the stores hold, and says which promises were broken.

It is a second opinion, so it shares no code with the product: not the services' and not the stores' (the import rules
see to that). What it needs of the rules it has from docs/answers.md and docs/exam-files.md.
"""
