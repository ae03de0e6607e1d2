"""The paper's two theoretical claims, stated, derived and checked: learning dynamics, and representability."""
