"""Systems of the network itself: meshes and stores."""
