"""The policy for apps in other processes: an endpoint on loopback that knows each episode by its key."""
