"""What to run: a Ray DAG is read (`ray_dag`), described (`model`) and planned (`plan`) into frozen dataclasses.

Pure, apart from `ray_dag`, which knows Ray's node classes and nothing else of this package but the model.
"""
