"""What commands share that call services on behalf of somebody who has signed in."""
