"""Networks in forms that other programs read. Writes files; knows neither runs nor sampling."""
