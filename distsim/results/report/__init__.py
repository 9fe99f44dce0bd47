"""The report of a study: one HTML file that needs no network.

arrays      the tables as typed arrays, which the page draws
words       titles, recipes and claims in words
sentences   what came out, in three sentences
parts       the parts of the page that need no script: claims, missing values, how it was run
page        the file
"""
