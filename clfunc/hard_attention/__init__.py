"""Hard attention to the task: gates, embeddings, rates, regularisers, and the method that they make."""
