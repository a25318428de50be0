"""From pictures in any form to typed results: loading, preprocessing, predictors, drawing."""
