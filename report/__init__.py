"""The report on a run or on models: tables, plots, the HTML page and the misclassified faces. It knows no training."""
