"""Programs read site by site: handlers, plates, enumeration, and the readings made of them."""
