"""What not everybody needs: applications, deployment, demo data."""
