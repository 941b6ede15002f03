"""What the engines are compared by: one workload on simulated peers, and what they made of it."""
