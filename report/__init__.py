"""What a person looks at: tables, plots and the misclassified faces. It takes data and knows nothing of training."""
