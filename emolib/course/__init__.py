"""The course: its notebooks run, written as pages with a front page, and the cells that lessons share."""
